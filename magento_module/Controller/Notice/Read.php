<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Controller\Notice;

use Magento\Customer\Controller\AccountInterface;
use Magento\Customer\Model\Session;
use Magento\Framework\App\Action\HttpPostActionInterface;
use Magento\Framework\App\RequestInterface;
use Magento\Framework\Controller\Result\RedirectFactory;
use Magento\Framework\Controller\ResultInterface;
use Magento\Framework\Data\Form\FormKey\Validator;
use Magento\Framework\Exception\NoSuchEntityException;
use Magento\Framework\Message\ManagerInterface;
use Tocsin\BreachNotification\Api\AcknowledgeAccountNoticeInterface;

/**
 * "I have read this": notes it, and leads to the page with all notices, where it now stands as read.
 */
class Read implements AccountInterface, HttpPostActionInterface
{
    /**
     * @param RequestInterface $request
     * @param Session $session
     * @param Validator $formKeyValidator
     * @param AcknowledgeAccountNoticeInterface $acknowledgeAccountNotice
     * @param RedirectFactory $redirectFactory
     * @param ManagerInterface $messages
     */
    public function __construct(
        private readonly RequestInterface $request,
        private readonly Session $session,
        private readonly Validator $formKeyValidator,
        private readonly AcknowledgeAccountNoticeInterface $acknowledgeAccountNotice,
        private readonly RedirectFactory $redirectFactory,
        private readonly ManagerInterface $messages
    ) {
    }

    /**
     * @inheritDoc
     */
    public function execute(): ResultInterface
    {
        $redirect = $this->redirectFactory->create()->setPath('security_notices');
        // Magento itself asks for no form key where a script sent the request.
        if (!$this->formKeyValidator->validate($this->request)) {
            $this->messages->addErrorMessage(__('Your session has changed. Please press "I have read this" again.'));
            return $redirect;
        }
        try {
            $this->acknowledgeAccountNotice->execute(
                (int)$this->session->getCustomerId(),
                (string)$this->request->getParam('notice_id')
            );
            $this->messages->addSuccessMessage(__('Thank you. We have noted that you have read the notice.'));
        } catch (NoSuchEntityException $error) {
            $this->messages->addErrorMessage(__('This notice is no longer in your account.'));
        }
        return $redirect;
    }
}
