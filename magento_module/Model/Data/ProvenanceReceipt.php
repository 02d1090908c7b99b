<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\ProvenanceReceiptInterface;

/**
 * @inheritDoc
 */
class ProvenanceReceipt extends AbstractSimpleObject implements ProvenanceReceiptInterface
{
    /**
     * @inheritDoc
     */
    public function getRecordId()
    {
        return (string)$this->_get('record_id');
    }

    /**
     * @inheritDoc
     */
    public function setRecordId($recordId)
    {
        return $this->setData('record_id', $recordId);
    }

    /**
     * @inheritDoc
     */
    public function getStatus()
    {
        return (string)$this->_get('status');
    }

    /**
     * @inheritDoc
     */
    public function setStatus($status)
    {
        return $this->setData('status', $status);
    }
}
